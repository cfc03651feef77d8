"""Which networks are there: the ones of the field's evaluation by name, and how to add others.

>>> from ddkit import models
>>> model = models.build("convnet", (3, 32, 32), 10, seed=0, depth=3)
>>> features = model.features(images)  # (N, 2048), what model.classifier reads
"""

from ddkit.models.base import FeatureModel, Shape, uses_batch_norm, weights_by_name
from ddkit.models.classic import MLP, VGG11, AlexNet, LeNet
from ddkit.models.convnet import ConvNet
from ddkit.models.densenet import DenseNet121
from ddkit.models.resnet import ResNet, resnet10, resnet18, resnet18_ap, resnet152
from ddkit.models.spec import ModelSpec, available, build, register, registry

register("convnet", ConvNet)
register("mlp", MLP)
register("lenet", LeNet)
register("alexnet", AlexNet)
register("vgg11", VGG11)
register("resnet10", resnet10)
register("resnet18", resnet18)
register("resnet18_ap", resnet18_ap)
register("resnet152", resnet152)
register("densenet121", DenseNet121)

__all__ = [
    "MLP",
    "VGG11",
    "AlexNet",
    "ConvNet",
    "DenseNet121",
    "FeatureModel",
    "LeNet",
    "ModelSpec",
    "ResNet",
    "Shape",
    "available",
    "build",
    "register",
    "registry",
    "resnet10",
    "resnet18",
    "resnet18_ap",
    "resnet152",
    "uses_batch_norm",
    "weights_by_name",
]
