"""What does a client do: distil its shard and send the set, or train the global model as in federated averaging?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch

from ddkit import methods
from ddkit.base.ranges import Count, in_range
from ddkit.base.streams import Streams, derive_seed
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, DDKitError
from ddkit.integrations.federated.around import NetworksAround
from ddkit.integrations.federated.flower import (
    CLIENT_RAISED,
    ClientApp,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from ddkit.integrations.federated.privacy import BudgetExceededError, PrivateRelease
from ddkit.integrations.federated.shard import UNSEEN_STARTS, distil_shard
from ddkit.integrations.federated.task import Task
from ddkit.integrations.federated.training import check_recipe, train, training_data
from ddkit.integrations.federated.weights import load_arrays, weights_to_arrays
from ddkit.integrations.federated.wire import EXAMPLES, METRICS, check_wire, pack
from ddkit.models.spec import ModelSpec
from ddkit.networks.network import Network
from ddkit.training.recipe import TrainingRecipe

#: Name of the action, and the type of the messages that ask for it.
ACTION = "distil"
DISTIL = f"train.{ACTION}"

ARRAYS, CONFIG = "arrays", "config"
ROUND, MODEL, RADIUS, PROXIMAL = "server-round", "model", "radius", "proximal-mu"

#: All that the server learns of a private release that failed.
PRIVATE_FAILURE = "the private release failed"

Load = Callable[[Context], RealData]


def partition_of(context: Context) -> int:
    """Return the number of a client's partition; in a deployment without one, its node."""
    return int(context.node_config.get("partition-id", context.node_id))


class DistillClient:
    """A client that distils its shard and sends the set as arrays.

    >>> app = DistillClient(task, load_partition, method="dm", ipc=10, options={"steps": 1000}).app()

    Where the server sends weights (iterative mode, FedDM), the networks that are matched on lie around them, and
    features and logits are matched.

    Args:
        task: what the federation learns.
        load: returns the client's images for its context; classes without images are allowed.
        method: name of a ddkit method.
        ipc: most images per class; a smaller class sends as many as it has.
        wire: number format of the images, ``uint8``, ``float16`` or ``float32``, or ``coded:CODEC``, such as
            ``coded:uniform:bits=3``.
        options: overrides of the method's preset. It starts from class means unless told otherwise.
        min_class_size: classes with fewer images are left out; at least 2, as the mean of one image is that image.
        allow_real_init: send or start from real images, which are then recognisable in the message.
        private: makes differentially private releases instead, see
            :class:`~ddkit.integrations.federated.privacy.PrivateRelease`; one shot only.
        seed: of all distillations.

    Raises:
        ConfigError: an option out of range, real images that are not allowed, or options beside ``private``.
        UnknownNameError: no such method, wire format or codec.
    """

    @in_range("")
    def __init__(
        self,
        task: Task,
        load: Load,
        *,
        method: str = "dm",
        ipc: Count = 10,
        wire: str = "uint8",
        options: Mapping[str, Any] | None = None,
        min_class_size: Count = 2,
        allow_real_init: bool = False,
        private: PrivateRelease | None = None,
        seed: int = 0,
    ) -> None:
        check_wire(wire, task.shape)
        if min_class_size < 2 and not allow_real_init:
            raise ConfigError(
                "min_class_size=1 sends the copy of an image where a class has one: use at least 2, or "
                "allow_real_init=True where that is meant"
            )
        start = (options or {}).get("init", UNSEEN_STARTS[0])
        if not allow_real_init and (methods.get(method).is_coreset or start not in UNSEEN_STARTS):
            what = f"method={method}" if methods.get(method).is_coreset else f"init={start}"
            raise ConfigError(
                f"{what} puts real images of the client into its message: use a method that distils with init=mean or "
                f"noise, or allow_real_init=True where that is meant"
            )
        if private is not None and (options or allow_real_init):
            raise ConfigError("private=... decides itself how its set is made: leave options and allow_real_init out")
        self.task, self.load, self.method, self.ipc, self.wire = task, load, method, ipc, wire
        self.options, self.min_class_size, self.allow_real_init = dict(options or {}), min_class_size, allow_real_init
        self.private, self.seed = private, seed

    def app(self) -> ClientApp:
        """Return a ClientApp with the action ``train.distil``."""
        return self.register(ClientApp())

    def register(self, app: ClientApp) -> ClientApp:
        """Add the action ``train.distil`` to an app that has others; return it."""
        app.train(ACTION)(self.reply)
        return app

    def reply(self, message: Message, context: Context) -> Message:
        """Answer one message: the set, or an error of one line.

        A private client says of its errors only whether its budget is spent: their text may tell of its images.
        """
        if self.private is not None and message.content.array_records:
            reason = "matching around global weights is not private: use one-shot mode with private=..."
            return Message(Error(CLIENT_RAISED, reason), reply_to=message)
        try:
            return Message(self._content(message.content, context), reply_to=message)
        except BudgetExceededError as error:
            reason = str(error)
        except DDKitError as error:
            reason = str(error).splitlines()[0] if self.private is None else PRIVATE_FAILURE
        except Exception:
            if self.private is None:
                raise
            reason = PRIVATE_FAILURE
        return Message(Error(CLIENT_RAISED, reason), reply_to=message)

    def _content(self, asked: RecordDict, context: Context) -> RecordDict:
        real = self.task.require(self.load(context))
        if self.private is not None:
            distilled = self.private.run(real, context)
            # What else is said has to follow from the release, too.
            sent = torch.bincount(distilled.hard_labels(), minlength=self.task.num_classes)
            return pack(distilled, sent.tolist(), self.wire)
        config = asked.config_records[CONFIG]
        distilled = distil_shard(
            real,
            self.method,
            self.ipc,
            derive_seed(self.seed, "client", partition_of(context), int(cast(int, config[ROUND]))),
            options=self.options,
            min_class_size=self.min_class_size,
            allow_real_init=self.allow_real_init,
            networks=self._networks(asked, config) if asked.array_records else None,
        )
        return pack(distilled, real.class_counts.tolist(), self.wire)

    def _networks(self, asked: RecordDict, config: ConfigRecord) -> Callable[[], NetworksAround]:
        """Return what makes the networks around the weights that the server sent."""
        spec = ModelSpec.parse(str(config[MODEL]))
        own = self.options.get("model")
        if own is not None and ModelSpec.parse(own) != spec:
            raise ConfigError(
                f"this client matches on '{own}', the server's model is '{spec.canonical()}': iterative mode needs "
                f"one model for all"
            )

        def around() -> NetworksAround:
            # Its own network each: a source moves the weights of the one that it is given.
            network = Network(spec, self.task.shape, self.task.num_classes)
            load_arrays(asked.array_records[ARRAYS], network.module)
            return NetworksAround(network, float(cast(float, config[RADIUS])))

        return around


class TrainClient:
    r"""A client of federated averaging: it trains the global model on its images and sends the weights back.

    With a server that sends ``proximal-mu`` (Flower's FedProx) its loss has the proximal term
    :math:`\frac{\mu}{2} \| w - w^t \|^2` of Li et al. (2020).

    Args:
        task: what the federation learns.
        load: returns the client's images for its context.
        model: architecture, the server's.
        recipe: local training of a round.
        seed: of batch order and augmentation.

    Raises:
        ConfigError: an unknown model, or a recipe that local training does not know.
    """

    def __init__(
        self, task: Task, load: Load, *, model: str = "convnet", recipe: TrainingRecipe | None = None, seed: int = 0
    ) -> None:
        self.task, self.load, self.spec, self.seed = task, load, ModelSpec.parse(model), seed
        default = TrainingRecipe(name="local", epochs=1, batch_size=32, schedule="constant")
        self.recipe = default if recipe is None else recipe
        check_recipe(self.recipe)

    def app(self) -> ClientApp:
        """Return a ClientApp that answers messages of type ``train``."""
        return self.register(ClientApp())

    def register(self, app: ClientApp) -> ClientApp:
        """Add the default training function to an app; return it."""
        app.train()(self.reply)
        return app

    def reply(self, message: Message, context: Context) -> Message:
        """Answer one message: the trained weights, or an error of one line."""
        try:
            return Message(self._content(message.content, context), reply_to=message)
        except DDKitError as error:
            return Message(Error(CLIENT_RAISED, str(error).splitlines()[0]), reply_to=message)

    def _content(self, asked: RecordDict, context: Context) -> RecordDict:
        real, config = self.task.require(self.load(context)), asked.config_records[CONFIG]
        module = self.spec.build(self.task.shape, self.task.num_classes, 0)
        load_arrays(asked.array_records[ARRAYS], module)
        streams = Streams(derive_seed(self.seed, "client", partition_of(context), int(cast(int, config[ROUND]))))
        mu = float(cast(float, config.get(PROXIMAL, 0.0)))
        loss = train(module, training_data(real), self.recipe, streams, proximal=mu)
        metrics = MetricRecord({EXAMPLES: len(real), "train-loss": loss})
        return RecordDict({ARRAYS: weights_to_arrays(module), METRICS: metrics})
