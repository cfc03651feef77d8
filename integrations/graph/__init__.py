"""Graph condensation for PyTorch Geometric: a ``Data`` becomes a small one that any PyG model trains on.

>>> from ddkit.integrations.graph import GraphCondenser, evaluate, save
>>> small = GraphCondenser("gcond-x", ratio=0.026).condense(data)
>>> print(evaluate(small, data, models=["gcn", "gat"]).table())
>>> save(small, "cora-70.safetensors")

Everything is computed on the CPU; ``small.to(device)`` moves the result. Condensing gives no differential privacy.
"""

from ddkit.integrations.graph.artifact import coded, load, save
from ddkit.integrations.graph.budget import stored_bytes
from ddkit.integrations.graph.condenser import GraphCondenser
from ddkit.integrations.graph.evaluation import evaluate, evaluate_whole
from ddkit.integrations.graph.generated import block_model, citation_model, karate_club, random_families
from ddkit.integrations.graph.graph_evaluation import evaluate_graphs
from ddkit.integrations.graph.graphs import GraphOptions
from ddkit.integrations.graph.judging import Training
from ddkit.integrations.graph.learned import Options
from ddkit.integrations.graph.models import MODELS
from ddkit.integrations.graph.planetoid import planetoid
from ddkit.integrations.graph.presets import METHODS
from ddkit.integrations.graph.results import GraphEvaluation, ModelResult

__all__ = [
    "METHODS",
    "MODELS",
    "GraphCondenser",
    "GraphEvaluation",
    "GraphOptions",
    "ModelResult",
    "Options",
    "Training",
    "block_model",
    "citation_model",
    "coded",
    "evaluate",
    "evaluate_graphs",
    "evaluate_whole",
    "karate_club",
    "load",
    "planetoid",
    "random_families",
    "save",
    "stored_bytes",
]
