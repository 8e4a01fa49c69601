"""The language of configurations: YAML into typed values, components by name, sealed records."""

from .command_line import read_arguments as read_arguments
from .converter import Scalar as Scalar
from .problems import ConfigurationError as ConfigurationError
from .problems import Problem as Problem
from .registry import Component as Component
from .registry import Library as Library
from .registry import Registry as Registry
from .sealed_files import DamagedError as DamagedError
from .sealed_files import parse_json as parse_json
from .sealed_files import read_sealed as read_sealed
from .sealed_files import read_sealed_lines as read_sealed_lines
from .sealed_files import read_utf8 as read_utf8
from .sealed_files import sealed as sealed
from .sealed_files import sealed_line as sealed_line
from .sealed_files import structure_record as structure_record
from .structuring import structure as structure
from .structuring import unstructure as unstructure
from .tree import Tree as Tree
from .tree import merge as merge
from .tree import plain as plain
from .tree import tree_of as tree_of
from .tree import without_nulls as without_nulls
from .yaml import dump as dump
from .yaml import read_file as read_file
from .yaml import read_text as read_text
