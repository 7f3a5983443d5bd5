"""A Python that has imported the steps already, for scripts that call `"$SPICA_PYTHON" -m MODULE ...`.

`serve SOCKET` forks a child for each call; `call SOCKET WORDS...` stands where the interpreter would: it hands over its
words, folder, environment and open files, and ends as the child ends.
"""

import json
import os
import runpy
import signal
import socket
import sys

LIMIT = 1 << 20


def serve(path: str) -> None:
    """Answer calls for ever."""
    from spica.steps.starter import import_steps, set_up_kernels

    import_steps()
    set_up_kernels()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children: they tell their callers themselves
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen()
    os.rename(f"{path}.new", path)
    while True:
        caller, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _be_step(caller)
        caller.close()


def _be_step(caller: socket.socket) -> None:
    """Do in this child what the caller would have done as an interpreter of its own."""
    raw, files, _, _ = socket.recv_fds(caller, LIMIT, 3)
    told = json.loads(raw)
    for target, source in enumerate(files):
        os.dup2(source, target)
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    option, module, *sys.argv[1:] = told["words"]
    assert option == "-m"
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    caller.sendall(str(int(code or 0)).encode())
    os._exit(0)


def call(path: str, words: list[str]) -> int:
    """Have the words run; return the exit code, 1 where the child died."""
    told = json.dumps({"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [told], [0, 1, 2])
        return int(server.recv(16) or 1)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    raise SystemExit(call(sys.argv[2], sys.argv[3:]))
