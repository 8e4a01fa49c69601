"""How far a job is, where there is no terminal."""

from __future__ import annotations

from flowbp.cli.progress import report_progress


def test_a_log_hears_of_the_time_left_now_and_then(capsys):
    now = 0.0
    with report_progress("generating", 1000, unit="picture", clock=lambda: now) as progress:
        for done in range(1, 1001):
            now += 2.0
            progress(done, 1000)
    first, *lines, last = capsys.readouterr().err.splitlines()
    assert first == "generating: 1000 pictures"
    assert last == "generating: 1000/1000, took 0:33:20"
    assert lines[0] == "generating: 5/1000, 0:33:10 left"
    # The first after ten seconds, then the later the longer it has run.
    assert 20 < len(lines) < 50
    assert all("left" in line for line in lines)


def test_a_short_job_says_no_more_than_that_it_began(capsys):
    with report_progress("encoding", 3) as progress:
        for done in range(1, 4):
            progress(done, 3)
    assert capsys.readouterr().err == "encoding: 3 prompts\n"
    with report_progress("encoding", 1):
        pass
    assert capsys.readouterr().err == "encoding: 1 prompt\n"
