"""Who trains a network: the recipe, the batches, the loop, the ridge regression, the accuracy; experts inside."""

from ddkit.training.accuracy import accuracies, accuracy, accuracy_and_loss, probabilities
from ddkit.training.named import OWN_RECIPES, RECIPES, recipe
from ddkit.training.recipe import TrainingRecipe
from ddkit.training.train import train_networks

__all__ = [
    "OWN_RECIPES",
    "RECIPES",
    "TrainingRecipe",
    "accuracies",
    "accuracy",
    "accuracy_and_loss",
    "probabilities",
    "recipe",
    "train_networks",
]
