"""How does a server that was killed go on: which sets and weights lie on disk, and do they belong to this run?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from ddkit.base.container import pack, unpack
from ddkit.base.files import write_atomically, write_text
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ArtifactError, ConfigError
from ddkit.integrations.federated.wire import ClientSet

FILE_NAME = "federated.json"
KIND, VERSION = "ddkit.federated-model", 1
#: Key of a stored set's metadata with the client's class counts.
COUNTS = "class_counts"


class RoundStore:
    """Accepted sets and the weights after each round, in a folder: one verified file each, no pickle.

    Args:
        folder: of the run; made when first written.
        settings: what must be equal for the run to go on; JSON-able.

    Raises:
        ConfigError: the folder holds another run.
    """

    def __init__(self, folder: Path | str, settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        path, text = self.folder / FILE_NAME, json.dumps(settings, indent=2, sort_keys=True) + "\n"
        if path.exists():
            if path.read_text(encoding="utf-8") != text:
                raise ConfigError(f"'{path}' is of a run with other settings: use the same, or choose another folder")
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise ConfigError(f"'{self.folder}' is not empty and holds no federated run: choose another folder")
        else:
            write_text(path, text)

    def _round(self, number: int) -> Path:
        return self.folder / f"round-{number:04d}"

    def keep_set(self, number: int, node: int, one: ClientSet) -> None:
        """Write an accepted set."""
        distilled = one.distilled
        distilled.metadata[COUNTS] = list(one.counts)
        distilled.save(self._round(number) / f"client-{node}.safetensors")

    def sets(self, number: int) -> dict[int, ClientSet]:
        """Return the sets of a round that were accepted before, by node; a damaged one is asked for again."""
        kept = {}
        for path in sorted(self._round(number).glob("client-*.safetensors")):
            try:
                distilled = DistilledDataset.load(path)
                counts = tuple(int(count) for count in distilled.metadata[COUNTS])
                kept[int(path.stem.removeprefix("client-"))] = ClientSet(distilled, counts)
            except (ArtifactError, KeyError, ValueError, TypeError):
                continue
        return kept

    def keep_model(self, number: int, module: nn.Module) -> None:
        """Write the weights at the end of a round."""
        content = pack(dict(module.state_dict()), {"round": number}, kind=KIND, version=VERSION)
        write_atomically(self._model(number), lambda temporary: temporary.write_bytes(content))

    def require_start(self, module: nn.Module) -> None:
        """Keep the weights that the run starts from; of a run that goes on, compare them.

        Raises:
            ConfigError: the run in the folder started from others.
        """
        path = self._model(0)
        content = pack(dict(module.state_dict()), {"round": 0}, kind=KIND, version=VERSION)
        if path.exists() and path.read_bytes() != content:
            raise ConfigError(f"the run in '{self.folder}' began with other weights: use those, or another folder")
        self.keep_model(0, module)

    def load_model(self, number: int, module: nn.Module) -> bool:
        """Set ``module`` to the weights at the end of a round; False where there are none.

        Raises:
            ArtifactError: the file is damaged.
        """
        path = self._model(number)
        if not path.exists():
            return False
        with path.open("rb") as stream:
            _, tensors = unpack(stream, path.stat().st_size, kind=KIND, version=VERSION)
        if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in module.state_dict().items()}:
            raise ArtifactError(f"'{path}' holds weights of another network: delete that round and go on")
        module.load_state_dict(tensors)
        return True

    def has_model(self, number: int) -> bool:
        """Say whether a round was finished."""
        return self._model(number).exists()

    def _model(self, number: int) -> Path:
        return self._round(number) / "model.safetensors"
