"""Which settings would leak private records past the noise, and why?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddkit.base.config import DistillConfig
from ddkit.data.real import RealData
from ddkit.engine.callbacks import PeriodicEvaluation
from ddkit.errors import ConfigError
from ddkit.integrations.private.gradients import require_separable
from ddkit.integrations.private.separable import require_stateless
from ddkit.models.base import uses_batch_norm
from ddkit.models.spec import ModelSpec
from ddkit.networks.experts import ExpertTrajectories
from ddkit.networks.real_trained import RealTrainedNetworks
from ddkit.synthesis.gan.codes import GANCodes


def _called(*kinds: type) -> tuple[str, ...]:
    """Return what a configuration calls pieces that were given as objects."""
    return tuple(kind.__name__.lower() for kind in kinds)


#: Network sources whose weights come from real images.
_TRAINED_ON_REAL = ("real-trained", "experts", *_called(RealTrainedNetworks, ExpertTrajectories))
#: Synthesis that draws images with a generator of real ones.
_DRAWN_BY_GENERATOR = ("gan", *_called(GANCodes))


def refuse_options(options: Mapping[str, Any]) -> None:
    """Refuse options of a distiller that would read records, before any of them are given.

    Args:
        options: of :class:`~ddkit.Distiller`.

    Raises:
        ConfigError: naming the option and the remedy.
    """
    if "signal" in options:
        raise ConfigError("the signal of a private run is its mechanism: leave signal out")
    for name in ("codec", "bytes"):
        if options.get(name) is not None:
            raise ConfigError(
                f"{name}={options[name]} comes after the release, as post-processing that costs no privacy: leave it "
                f"out, and use ddkit encode or coded() on the released set"
            )
    if any(isinstance(callback, PeriodicEvaluation) for callback in options.get("callbacks") or ()):
        raise ConfigError(
            "PeriodicEvaluation looks at held-out records without noise, and a run that stops by it was chosen by them:"
            " leave it out, and evaluate the released set"
        )


def refuse(config: DistillConfig, public: RealData, *, augments: bool) -> None:
    """Refuse settings under which something but noisy queries would read the records.

    Args:
        config: of the run.
        public: the stand-in for the private set.
        augments: whether the mechanism can show augmented records.

    Raises:
        ConfigError: naming the setting, what it would leak and the remedy.
    """
    if config.selection is not None:
        raise ConfigError(f"'{config.method}' returns real images, which is the opposite of private: use dp-dm")
    if config.synthesis.name.lower() in _DRAWN_BY_GENERATOR:
        raise ConfigError(
            f"synthesis={config.synthesis.name} draws images with a generator that was trained on real ones without "
            f"noise: use synthesis=pixels"
        )
    if config.init != "noise":
        raise ConfigError(f"init={config.init} starts from private images and would release them: use init=noise")
    if config.zca is not None:
        raise ConfigError(f"zca={config.zca} is fitted on private images: leave it out, and pass public normalisation")
    if config.networks.name.lower() in _TRAINED_ON_REAL:
        raise ConfigError(
            f"networks={config.networks.name} are trained on private images without noise: use fresh, fixed or "
            f"synthetic-trained ones"
        )
    if str(config.synthesis.options.get("labels", "hard")) == "assigned":
        raise ConfigError("synthesis.labels=assigned come from experts trained on private images: use labels=hard")
    if config.augmentation != "none" and not augments:
        raise ConfigError(
            f"augmentation={config.augmentation} with one release for all steps: records were seen without it; use "
            f"augmentation=none, or the method dp-dm-iterated"
        )
    module = ModelSpec.parse(config.model).build(public.shape, public.num_classes, 0)
    if uses_batch_norm(module):
        raise ConfigError(
            f"model={config.model} has batch norm, through which one record changes what all others add: use "
            f"norm=instance, group or none"
        )
    require_separable(module)
    require_stateless(module, public)
