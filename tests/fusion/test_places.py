"""Where searches run: in a kernel's event loop, in a thread of a web server, in processes of multiprocessing."""

import asyncio
import multiprocessing
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import pytest
from fusion_helpers import fit, run, run_fused

from scratchnn import fused_fits


def test_in_a_running_event_loop():
    """As a notebook's cell, which the kernel's loop runs."""

    async def cell():
        await asyncio.sleep(0)
        results = run_fused(fit)
        with fused_fits() as report:
            await asyncio.sleep(0)
            run(fit)
        return *results, [stack.n_models for stack in report.stacks]

    assert asyncio.run(cell()) == (run(fit), [3], [3])


@pytest.mark.filterwarnings("ignore")
def test_in_a_notebook():
    pytest.importorskip("ipykernel")
    manager = pytest.importorskip("jupyter_client.manager")
    code = f"import sys; sys.path = {sys.path}\nfrom fusion_helpers import fit, run_fused\nprint(run_fused(fit)[1])"
    printed = []
    kernel, client = manager.start_new_kernel(kernel_name="python3")
    try:
        client.execute_interactive(code, output_hook=lambda each: printed.append(each["content"].get("text")))
        assert "[3]\n" in printed
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


def test_in_threads_of_a_web_server():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            text = repr(run_fused(fit)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with urlopen(f"http://127.0.0.1:{server.server_port}/", timeout=60) as answer:
            assert answer.read().decode() == repr((run(fit), [3]))
        server.shutdown()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["spawn", "fork"] if hasattr(os, "fork") else ["spawn"])
def test_in_a_process_of_multiprocessing(method):
    with fused_fits(), multiprocessing.get_context(method).Pool(1) as processes:
        assert processes.apply(run_fused, (fit,)) == (run(fit), [3])
