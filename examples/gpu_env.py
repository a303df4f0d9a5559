"""The batch environment in tensors: on a GPU nothing of a turn leaves it.

`python -m examples.gpu_env` (on the CPU where there is no GPU)
"""

from pathlib import Path

import torch

from agents.checkpoints import load_checkpoint
from envs.factory import make_dialog
from envs.on_device import DeviceDialogVectorEnv
from retrieval.devices import device_of, settle


@torch.no_grad()
def main(
    root: Path | None = None, agent: Path | None = None, dialogs: int = 256, turns: int = 20
) -> float:
    """Play with an agent of `train_sl`, or ask for images at random; mean reward per turn."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dialog = make_dialog(root=root, user="neural", device=device)  # after `train_captioner`
    env = DeviceDialogVectorEnv(dialog, dialogs)
    tracker = None if agent is None else settle(load_checkpoint(agent).agent, device_of(device))
    images = tracker and tracker.embed(tracker.here(dialog.gallery.features))
    if images is not None:
        env.embeddings = images  # queries are searched among these
    seen, infos = env.reset(seed=0)  # observations, rewards and infos are tensors
    memory, earned = None, torch.zeros(dialogs, device=env.device)
    for _ in range(turns):
        if tracker is None:
            action = env.embeddings[torch.randint(len(dialog.gallery), (dialogs,))]
        else:
            if memory is not None:  # dialogs that have begun anew remember nothing
                memory = memory * (seen["turn"] > 0)
            shown = tracker.embed(seen["reference"])
            action, memory = tracker.respond(shown, seen["caption"], memory)
        seen, reward, _, _, infos = env.step(action)
        earned += reward
    print(f"on {env.device}: reward per turn {earned.mean().item() / turns:.3f}")
    print(f"mean rank percentile now {infos['percentile'].mean().item():.3f}")
    return earned.mean().item() / turns


if __name__ == "__main__":
    main()
