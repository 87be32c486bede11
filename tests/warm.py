"""`psld` as forks of one process, which imports what a command needs once: seconds less for each.

with warm(environment) as environment:
    subprocess.run(["bash", "-c", "psld prepare dataset=digits | head -1"], env=environment)
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

COMMAND = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b" "], [0, 1, 2])
    server.sendall(json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    code = server.makefile().read()
sys.exit(int(code))
"""
"""The program on the PATH: gives its words, folder, variables and streams to the server."""

SERVER = """
import importlib, json, os, socket, sys
from psld.commands.main import COMMANDS, main
listening = socket.socket(fileno=int(sys.argv[1]))
while True:
    connection, _ = listening.accept()
    _, streams, *_ = socket.recv_fds(connection, 1, 3)
    sys.argv, folder, variables = json.loads(connection.makefile().read())
    for name in {*sys.argv} & COMMANDS.keys():
        importlib.import_module(f"psld.commands.{COMMANDS[name]}")
        if name.startswith("train"):
            importlib.import_module("torch._dynamo")  # An optimizer imports it.
    if not os.fork():
        command = os.fork()
        if not command:
            connection.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            sys.__stdin__, sys.__stdout__, sys.__stderr__ = open(0), open(1, "w"), open(2, "w")
            sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(variables)
            main()
            sys.exit()
        _, status = os.waitpid(command, 0)
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    for each in streams:
        os.close(each)
    connection.close()
"""
"""Imports the module of each command when it is first asked for; a fork of it runs the command."""


@contextlib.contextmanager
def warm(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Start the server with these variables; yield them with `psld` first on the PATH."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        program, address = Path(folder, "psld"), f"{folder}/socket"
        program.write_text(COMMAND.format(python=sys.executable, address=address))
        program.chmod(0o755)
        listening.bind(address)
        listening.listen()
        number = listening.fileno()
        words = [sys.executable, "-c", SERVER, str(number)]
        with subprocess.Popen(words, env=environment, pass_fds=[number], cwd=folder) as server:
            try:
                yield {**environment, "PATH": f"{folder}{os.pathsep}{environment['PATH']}"}
            finally:
                server.kill()
