"""YAML into typed, validated configurations: overlays, overrides, components chosen by name."""

from .arguments import read_arguments as read_arguments
from .component import Component as Component
from .describing import describe as describe
from .merging import merge as merge
from .merging import without_nulls as without_nulls
from .problems import ConfigurationError as ConfigurationError
from .problems import Problem as Problem
from .records import DamagedError as DamagedError
from .records import parsed as parsed
from .records import read_sealed as read_sealed
from .records import read_sealed_lines as read_sealed_lines
from .records import read_utf8 as read_utf8
from .records import sealed as sealed
from .records import sealed_line as sealed_line
from .records import structured as structured
from .registry import Registry as Registry
from .rules import Scalar as Scalar
from .scalars import dump as dump
from .structuring import structure as structure
from .text import read_file as read_file
from .text import read_text as read_text
from .tree import Tree as Tree
from .tree import plain as plain
from .tree import tree_of as tree_of
