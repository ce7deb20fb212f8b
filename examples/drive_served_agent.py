"""Drive a served VINE agent with openpi's client; an episode of a LeRobot dataset stands in for the robot.

    python examples/drive_served_agent.py DATASET [--port 8000] [--episode 0] [--requests 5]

On a robot, `look` reads its cameras and state, and the loop executes `reply["actions"]`.
"""

import argparse
from typing import Any

from lerobot.datasets import LeRobotDataset
from openpi_client.websocket_client_policy import WebsocketClientPolicy


def look(dataset: LeRobotDataset, frame: int, cameras: list[str]) -> dict[str, Any]:
    """What the robot sees and feels at a frame, under the keys that VINE reads.

    Args:
        cameras: roles that the server asks for; here the last part of the dataset's keys.
    """
    item = dataset[frame]
    keys = {key.rpartition(".")[2]: key for key in dataset.meta.camera_keys}
    return {
        "images": {role: item[keys[role]].numpy() for role in cameras},  # floats in [0, 1], channels first
        "observation/state": item["observation.state"].numpy(),
        "prompt": item["task"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", help="folder of a LeRobot dataset")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--episode", type=int, default=0)
    parser.add_argument("--requests", type=int, default=5)
    options = parser.parse_args()
    dataset = LeRobotDataset("local/robot", root=options.dataset, video_backend="pyav")
    frame = int(dataset.meta.episodes["dataset_from_index"][options.episode])

    planner = WebsocketClientPolicy(host=f"ws://{options.host}:{options.port}/plan")
    told = planner.get_server_metadata()
    cameras, sizes = list(told["cameras"]), (told["state_size"], told["action_size"])
    print(f"{told['serves']}: cameras {cameras}, state and actions of {sizes} numbers")
    plan = planner.infer(look(dataset, frame, cameras))
    print(f"{plan['status']}: {plan['reason']}")
    for option in plan["options"]:
        print(f"  {option['text']}: {option['feasibility']:.2f} {option['pruned']}".rstrip())

    agent = WebsocketClientPolicy(host=f"ws://{options.host}:{options.port}")
    for request in range(options.requests):
        reply = agent.infer({**look(dataset, frame, cameras), "reset": request == 0})
        actions = reply["actions"]
        print(
            f"{reply['status']} {reply['subgoal']} {reply['reason']}".strip(),
            [round(float(v), 3) for v in actions[0]],
        )
        if reply["status"] == "stopped":
            break
        frame += len(actions)  # a robot would execute them now


if __name__ == "__main__":
    main()
