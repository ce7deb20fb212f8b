"""A policy behind openpi's protocol, in a process of its own: prints its port, serves until it is ended.

Its chunk of ten actions [dx, dy, gripper] depends on the words of the prompt and on the mean of the image.
"""

from __future__ import annotations

import sys
import zlib

import numpy as np
from websockets.sync.server import ServerConnection, serve

from vine_vla.system1.adapters.openpi_wire import pack_message, unpack_message

SIZE = int(sys.argv[1]) if len(sys.argv) > 1 else 3


def handle(socket: ServerConnection) -> None:
    socket.send(pack_message({"policy": "words"}))
    for data in socket:
        message = unpack_message(data)
        rng = np.random.default_rng(zlib.crc32(message["prompt"].encode()))
        light = float(message["observation/image"].mean()) / 255
        assert message["observation/state"].ndim == 1
        socket.send(pack_message({"actions": (rng.normal(size=(10, SIZE)) * light).astype(np.float32)}))


if __name__ == "__main__":
    with serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
        print(server.socket.getsockname()[1], flush=True)
        server.serve_forever()
