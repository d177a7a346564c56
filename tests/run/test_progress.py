import io

from rich.console import Console

from l2i_builder.run.progress import ConsoleProgress


def shown(terminal, act, every=60.0):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120)
    with ConsoleProgress(console, rows=40, shards=2, every=every) as told:
        act(told)
    return file.getvalue()


def test_without_a_terminal_there_are_few_lines_and_a_last_one():
    def act(told):
        for _ in range(10):
            told.rows(rows=4, kept=1)

    lines = shown(False, act).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("building 40 rows in 2 shards")
    assert lines[1].startswith("40 of 40 rows, 10 kept, 0 of 2 shards")


def test_a_line_comes_whenever_it_is_due():
    assert "20 of 40 rows, 5 kept" in shown(False, lambda told: told.rows(rows=20, kept=5), every=0)


def test_a_failed_attempt_is_taken_back():
    def act(told):
        told.rows(rows=20, kept=5)
        told.undo(rows=20, kept=5)

    assert "0 of 40 rows, 0 kept" in shown(False, act)


def test_a_terminal_shows_a_bar():
    assert "20/40" in shown(True, lambda told: told.rows(rows=20, kept=5))


def test_notes_are_printed_as_they_are():
    assert "shard 00001: [bold]odd[/bold]" in shown(False, lambda told: told.note("shard 00001: [bold]odd[/bold]"))
