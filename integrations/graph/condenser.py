"""How does a PyG ``Data``, or a set of graphs, become a small one that any PyG model trains on?"""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Sequence
from typing import Any, Literal, overload

from ddkit.base.ranges import require
from ddkit.base.registry import checked_options
from ddkit.base.streams import Streams
from ddkit.base.version import __version__
from ddkit.errors import ConfigError, DataError, unknown_name
from ddkit.integrations.graph.budget import (
    RatioOf,
    check_selectable,
    check_size,
    node_counts,
    stored_bytes,
    warn_of_bytes,
)
from ddkit.integrations.graph.checks import Directed, Features
from ddkit.integrations.graph.graphs import GraphOptions, condense_graphs
from ddkit.integrations.graph.host import BaseTransform, Data, GraphDataset, host_version
from ddkit.integrations.graph.learned import Options
from ddkit.integrations.graph.matching import match_gradients
from ddkit.integrations.graph.packing import packed
from ddkit.integrations.graph.presets import LEARNED, METHODS, Structure
from ddkit.integrations.graph.problem import Condensed, Problem
from ddkit.integrations.graph.structure import MOST_NODES
from ddkit.integrations.graph.task import Missing, NodeTask, node_task
from ddkit.integrations.graph.untrained import CHOICES, class_means, coreset, kmeans_centres

Setting = Literal["transductive", "inductive"]
#: Arguments that the provenance of a graph repeats.
_TOLD = ("setting", "structure", "threshold", "hops", "backbone", "features", "directed", "ratio_of")
#: Arguments that sets of graphs do not have.
_OF_NODES = ("ratio_of", "hops", "backbone", "structure", "threshold", "setting", "split", "missing", "directed")


class GraphCondenser(BaseTransform):
    """Condense the nodes of a graph, or a set of graphs.

    It is a transform of PyG: ``T.Compose([T.NormalizeFeatures(), GraphCondenser("kmeans", ratio=0.026)])``. A dataset
    keeps what ``pre_transform=`` makes and computes ``transform=`` anew at every access, with the same result.

    Args:
        method: ``means`` (one propagated mean a class), ``kmeans``, ``random``, ``herding``, ``kcenter``, ``gcond``,
            ``gcond-x``, ``doscond``, ``gcdm`` or ``gc-krr``. Sets of graphs: ``doscond`` or ``random``.
        ratio: condensed nodes as a share of the nodes condensed from; shared among classes by labelled nodes.
        nodes_per_class: the same number for every class instead.
        ratio_of: what the ratio counts: all ``nodes``, as papers do, or the ``labelled`` ones.
        graphs_per_class: for sets of graphs.
        nodes: nodes of every condensed graph of a set; None for the mean of the set.
        hops: propagations of features.
        backbone: of gradient matching: ``sgc`` (closed form) or ``gcn`` (two layers).
        structure: ``identity`` (no edges), ``learned`` (predicted from features) or, for coresets, ``induced``; None
            for what the method is known for.
        threshold: learned edges below this weight are left out.
        setting: ``transductive`` propagates on the whole graph and uses labels of training nodes only; ``inductive``
            sees nothing but the subgraph of the training nodes.
        seed: of every random draw.
        split: column of masks that hold several splits.
        missing: a class without labelled nodes is an ``error`` or is dropped (``skip``).
        features: ``degree`` (one-hot) or ``identity`` for graphs without features.
        directed: ``symmetrise`` directed edges with a warning, or ``keep`` them (SGC only).
        options: fields of :class:`~ddkit.integrations.graph.matching.Options` (for sets of graphs of
            :class:`~ddkit.integrations.graph.graphs.GraphOptions`) that differ from the method's own.

    Raises:
        ConfigError: a method, option or combination that does not exist; nothing was computed.
    """

    def __init__(
        self,
        method: str = "means",
        ratio: float | None = None,
        nodes_per_class: int | None = None,
        *,
        ratio_of: RatioOf = "nodes",
        graphs_per_class: int | None = None,
        nodes: int | None = None,
        hops: int = 2,
        backbone: Literal["sgc", "gcn"] = "sgc",
        structure: Structure | None = None,
        threshold: float = 0.05,
        setting: Setting = "transductive",
        seed: int = 0,
        split: int | None = None,
        missing: Missing = "error",
        features: Features | None = None,
        directed: Directed = "symmetrise",
        **options: Any,
    ) -> None:
        if method not in METHODS:
            raise unknown_name("method of graph condensation", method, METHODS)
        given = {name: value for name, value in locals().items() if name not in ("self", "method", "options")}
        for name in ("nodes_per_class", "graphs_per_class", "nodes", "hops", "seed"):
            if isinstance(given[name], bool | str):  # which would be read as numbers
                raise ConfigError(f"{name}={given[name]!r} must be a whole number")
        own = checked_options("GraphCondenser", GraphCondenser, given)
        self.method, self.ratio, self.nodes_per_class = method, own["ratio"], own["nodes_per_class"]
        self.ratio_of, self.graphs_per_class, self.nodes = own["ratio_of"], own["graphs_per_class"], own["nodes"]
        self.hops, self.backbone, self.threshold = own["hops"], own["backbone"], own["threshold"]
        self.setting, self.seed, self.split = own["setting"], own["seed"], own["split"]
        self.missing, self.features, self.directed = own["missing"], own["features"], own["directed"]
        self._check_sizes()
        self._check_set(own)
        self.structure = self._structure(structure)
        self._check()
        self.options = self._options(options)

    def forward(self, data: Data) -> Data:
        """Condense one graph, as :meth:`condense` does."""
        return self.condense(data)

    def __repr__(self) -> str:
        """Return what was asked for; PyG tells by it whether a dataset was processed alike."""
        own = {name: value for name, value in vars(self).items() if name not in ("method", "options")}
        own |= dataclasses.asdict(self.options) if self.options is not None else {}
        told = "".join(f", {name}={value!r}" for name, value in own.items() if value is not None)
        return f"GraphCondenser({self.method!r}{told})"

    def _structure(self, structure: Structure | None) -> str:
        own = LEARNED[self.method].structure if self.method in LEARNED else "identity"
        if self.method in CHOICES:
            own = "induced"
        if structure is None:
            return own
        allowed = {own, "identity"} | ({"learned"} if self.method in LEARNED and self.method != "gcond-x" else set())
        if structure not in allowed:
            raise ConfigError(f"structure={structure!r} with method={self.method}: use {' or '.join(sorted(allowed))}")
        return structure

    def _check_sizes(self) -> None:
        sized = self.graphs_per_class is not None
        check_size(self.ratio, self.nodes_per_class, self.ratio_of, optional=self.method == "means" or sized)
        asked = self.ratio is not None or self.nodes_per_class is not None
        if sized and asked:
            raise ConfigError("graphs_per_class is for sets of graphs, ratio and nodes_per_class for nodes: give one")
        if self.nodes is not None and not sized:
            raise ConfigError(f"nodes={self.nodes} is for sets of graphs: give graphs_per_class as well, or ratio")
        if self.method == "means" and asked and self.nodes_per_class != 1:
            raise ConfigError("method=means makes one node a class: leave ratio and nodes_per_class out, or use kmeans")
        for name in ("graphs_per_class", "nodes"):
            if getattr(self, name) is not None:
                require(name, getattr(self, name), ge=1)

    def _check_set(self, given: dict[str, Any]) -> None:
        """Refuse, for a set of graphs, what has a meaning for nodes only."""
        if self.graphs_per_class is None:
            return
        usual = inspect.signature(GraphCondenser).parameters
        for name in _OF_NODES:
            if given[name] != usual[name].default:
                raise ConfigError(f"{name}={given[name]!r} is for the nodes of one graph, not for sets: leave it out")

    def _check(self) -> None:
        require("hops", self.hops, ge=0)
        require("threshold", self.threshold, ge=0, lt=1)
        require("seed", self.seed, ge=0)
        if self.structure == "learned" and self.hops == 0 and self.backbone == "sgc":
            raise ConfigError("hops=0 with learned structure: SGC would never see the edges, use hops=1 or more")
        if self.backbone == "gcn" and LEARNED.get(self.method, LEARNED["gcdm"]).match is not match_gradients:
            raise ConfigError(
                f"backbone=gcn with method={self.method}: only gcond, gcond-x and doscond have a backbone"
            )
        if self.directed == "keep" and self.backbone != "sgc":
            raise ConfigError("directed='keep' works with backbone=sgc only: use directed='symmetrise'")
        if self.setting == "inductive" and self.features == "identity":
            raise ConfigError("features='identity' names nodes that an inductive run never sees: use features='degree'")

    def _options(self, changes: dict[str, Any]) -> Options | GraphOptions | None:
        """Lay ``changes`` over the method's own options."""
        if self.graphs_per_class is not None:
            if self.method not in ("doscond", "random"):
                raise ConfigError(f"method={self.method} does not condense sets of graphs: use doscond or random")
            base: Options | GraphOptions | None = GraphOptions() if self.method == "doscond" else None
        else:
            base = LEARNED[self.method].options if self.method in LEARNED else None
        if base is None:
            for name in changes:
                raise unknown_name(f"option of method {self.method}", name, [])
            return None
        return dataclasses.replace(base, **checked_options(f"method {self.method}", type(base), changes))

    @overload
    def condense(self, data: Data) -> Data: ...
    @overload
    def condense(self, data: GraphDataset | Sequence[Data]) -> list[Data]: ...  # type: ignore[overload-cannot-match]
    def condense(self, data: Data | GraphDataset | Sequence[Data]) -> Data | list[Data]:
        """Condense the labelled nodes of a graph, or the graphs of a set.

        Args:
            data: one graph with ``train_mask`` and ``y`` (N,); or a dataset or sequence of labelled graphs.

        Returns:
            For a graph a ``Data`` with x (n, F), edge_index (2, E), edge_attr (E, 1) and edge_weight (E,), y (n,) in
            the labels of ``data``, a ``train_mask`` that is all true, and ``provenance`` (a dictionary; its seconds are
            processor seconds). For a set a list of such graphs without masks, with binary edges and y (1,).

        Raises:
            DataError: a graph that cannot be condensed.
            ConfigError: a size that the method cannot reach.
            DivergedError: matching diverged.
        """
        if isinstance(data, (GraphDataset, list, tuple)):
            made = self._condense_set(list(data))
            warn_of_bytes(sum(stored_bytes(graph) for graph in made), made[0].provenance["source"]["bytes"])
            return made
        if self.graphs_per_class is not None:
            raise DataError(f"graphs_per_class needs a list or Dataset of graphs, not a {type(data).__name__}")
        begun = time.process_time()
        inductive = self.setting == "inductive"
        whole = node_task(
            data,
            split=self.split,
            missing=self.missing,
            features=self.features,
            directed=self.directed,
            inductive=inductive,
        )
        task = whole.of_nodes(whole.train) if inductive else whole
        problem = Problem(task, self._counts(task), self.hops, Streams(self.seed))
        condensed = self._make(problem)
        told = {"ratio_asked": self.ratio, **{name: getattr(self, name) for name in _TOLD}}
        small = packed(condensed, whole, task, {**self._told(condensed.facts, time.process_time() - begun), **told})
        warn_of_bytes(small.provenance["bytes"], small.provenance["source"]["bytes"])
        return small

    def _counts(self, task: NodeTask) -> list[int]:
        if self.method == "means":
            return [1] * task.num_classes
        counts = node_counts(task, self.ratio, self.nodes_per_class, self.ratio_of)
        if self.method in CHOICES or self.method == "kmeans":
            check_selectable(task, counts, self.method)
        if self.structure == "learned" and sum(counts) > MOST_NODES:
            raise ConfigError(
                f"{sum(counts)} nodes with learned structure need an MLP on all pairs: at most {MOST_NODES}; use "
                f"structure='identity' or a smaller ratio"
            )
        return counts

    def _make(self, problem: Problem) -> Condensed:
        if self.method == "means":
            return class_means(problem)
        if self.method == "kmeans":
            return kmeans_centres(problem)
        if self.method in CHOICES:
            return coreset(problem, self.method, self.structure)
        assert isinstance(self.options, Options)
        match = LEARNED[self.method].match
        return match(problem, self.options, self.structure, self.backbone, self.threshold)

    def _told(self, facts: dict[str, Any], seconds: float) -> dict[str, Any]:
        return {
            "method": self.method,
            "seed": self.seed,
            "seconds": round(seconds, 3),
            "options": dataclasses.asdict(self.options) if self.options is not None else {},
            "ddkit_version": __version__,
            "torch_geometric_version": host_version,
            **facts,
        }

    def _condense_set(self, graphs: list[Data]) -> list[Data]:
        if self.graphs_per_class is None:
            one = "; for its nodes pass dataset[0], not the dataset" if len(graphs) == 1 else ""
            raise ConfigError(f"{len(graphs)} graphs are a set: give graphs_per_class{one}")
        begun = time.process_time()
        options = self.options if isinstance(self.options, GraphOptions) else None
        made, source = condense_graphs(
            graphs, self.graphs_per_class, self.nodes, options, self.features, Streams(self.seed)
        )
        told = self._told({}, time.process_time() - begun)
        for graph in made:
            graph.provenance = {**told, "features": self.features, "bytes": stored_bytes(graph), "source": source}
        return made
