"""What a rank prints reaches the launcher's output once, whatever bytes it is made of."""

from psld.cluster.relay import Relay, tail


def test_only_what_is_added_is_passed_on(tmp_path, capsys):
    path = tmp_path / "log"
    path.write_text("of an earlier launcher\n")
    relay = Relay(path)
    relay.pass_on()
    assert capsys.readouterr().out == ""
    with path.open("a") as log:
        for text in ("step 1\n", "step ", "2\n"):
            log.write(text)
            log.flush()
            relay.pass_on()
            assert capsys.readouterr().out == text


def test_a_log_may_come_later(tmp_path, capsys):
    relay = Relay(tmp_path / "log")
    relay.pass_on()
    (tmp_path / "log").write_bytes(b"Z\xc3\xa4hler \xff\n")
    relay.pass_on()
    relay.pass_on()
    assert capsys.readouterr().out == "Zähler �\n"


def test_tail(tmp_path):
    path = tmp_path / "log"
    assert tail(path) == "(not written)"
    path.write_bytes(b"first\n\xff\nlast\n")
    assert tail(path) == "first\n�\nlast"
    assert tail(path, lines=1) == "last"
