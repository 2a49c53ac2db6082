"""A llama.cpp server as a process of its own: ``python -m agents.worker.local.server --model FILE --port PORT``.

The server is llama.cpp's own HTTP server out of the package ``xllamacpp``. This module says with which parameters it
runs and imports nothing but that package, which keeps the process small. ``launcher.py`` starts it.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

KEY_VARIABLE = "TIERFLOW_LLAMA_KEY"
"""The variable with the API key of the server; a command line can be read by every user of the machine."""

LOOPBACK = "127.0.0.1"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line.

    Raises:
        SystemExit: It makes no sense; what is wrong is on standard error.
    """
    parser = argparse.ArgumentParser(prog="agents.worker.local.server", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--port", type=int, required=True, help="loopback port to listen on")
    parser.add_argument("--alias", default="", help="name of the model in answers (default: the file's name)")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute; leave a core to others")
    parser.add_argument("--parallel", type=int, default=1, help="requests computed at once; others wait")
    parser.add_argument("--context", type=int, default=4096, help="tokens of prompt and answer, for each request")
    parser.add_argument("--prompt-cache", action="store_true", help="keep prompts to save work on common beginnings")
    parser.add_argument("--log-level", type=int, default=2, help="0 output only, 1 errors, 2 warnings, 3 information")
    given = parser.parse_args(argv)
    for name in ("port", "threads", "parallel", "context"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if not given.model.is_file():
        parser.error(f"--model {given.model}: no such file")
    return given


def main(argv: list[str] | None = None) -> None:
    """Serves until a signal ends the process (SIGTERM and SIGINT at once: there is nothing to save)."""
    given = arguments(argv)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import xllamacpp  # noqa: PLC0415  a hundred megabytes that only this process needs
    except ImportError:
        sys.exit("xllamacpp is not installed: pip install 'tierflow[local]'")
    params = xllamacpp.CommonParams()
    params.model.path = str(given.model)
    params.model_alias = {given.alias or given.model.stem}
    params.hostnames = [LOOPBACK]
    params.port = given.port
    if key := os.environ.pop(KEY_VARIABLE, ""):
        params.api_keys = [key]
    params.cpuparams.n_threads = given.threads
    params.cpuparams_batch.n_threads = given.threads
    params.n_parallel = given.parallel
    # llama.cpp divides its context among the slots; ours is what each request gets.
    params.n_ctx = given.context * given.parallel
    params.fit_params = False  # never a smaller context than asked for
    params.ctx_shift = False  # a full context ends the answer; it never forgets its beginning
    # With prompts cached, an answer depends on what was asked before: batches are cut differently, and a rounding
    # difference can turn a token even at temperature 0. It also holds up to 8 GB of memory.
    params.cache_prompt = given.prompt_cache
    params.cache_idle_slots = given.prompt_cache
    if not given.prompt_cache:
        params.cache_ram_mib = 0
        params.n_ctx_checkpoints = 0
    params.ui = False
    params.endpoint_slots = False  # would show everybody's prompts
    params.cors_origins = ""  # or any page in a browser on this machine could ask
    params.verbosity = given.log_level
    try:
        server = xllamacpp.Server(params)  # returns when the model is loaded
    except RuntimeError as error:  # the reason is on standard error already
        sys.exit(f"{given.model} can't be served: {error}")
    print(f"serving {params.model.path} on {server.listening_address}", flush=True)  # noqa: T201  its log
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
