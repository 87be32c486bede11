"""The output of a rank, which reaches the launcher's output once, for any bytes."""

from psld.cluster.launcher import print_added, tail


def test_only_what_is_added_is_passed_on(tmp_path, capsys):
    path = tmp_path / "log"
    path.write_text("of an earlier launcher\n")
    position = print_added(path, path.stat().st_size)
    assert capsys.readouterr().out == ""
    with path.open("a") as log:
        for text in ("step 1\n", "step ", "2\n"):
            log.write(text)
            log.flush()
            position = print_added(path, position)
            assert capsys.readouterr().out == text


def test_a_log_may_come_later(tmp_path, capsys):
    path = tmp_path / "log"
    position = print_added(path, 0)
    path.write_bytes(b"Z\xc3\xa4hler \xff\n")
    for _ in range(2):
        position = print_added(path, position)
    assert capsys.readouterr().out == "Zähler �\n"


def test_tail(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"first\n\xff\nlast\n")
    assert tail(path) == "first\n�\nlast"
    assert tail(path, lines=1) == "last"
