"""The words of the field, each explained in a sentence or two; opened from the words with a dotted underline."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication


def explain(key: str) -> tuple[str, str] | None:
    """Title and explanation of a term, translated; ``None`` for a key that is not in the glossary."""
    tr = QCoreApplication.translate
    return {
        "class": (
            tr("Glossary", "Class"),
            tr("Glossary", "One of the answers to choose from, shown by a name, a colour and a shape."),
        ),
        "example": (
            tr("Glossary", "Example"),
            tr("Glossary", "A picture whose class you gave. A few per class are enough."),
        ),
        "query": (
            tr("Glossary", "Query"),
            tr("Glossary", "A picture whose class is asked for."),
        ),
        "episode": (
            tr("Glossary", "Episode"),
            tr(
                "Glossary",
                "A small exercise drawn from the sources: some classes, a few examples of each, and queries to answer. "
                "Learning from many episodes is how the workbench learns to learn.",
            ),
        ),
        "task": (
            tr("Glossary", "Task"),
            tr("Glossary", "A set of classes that belong together, usually one folder with a folder per class."),
        ),
        "ways": (tr("Glossary", "Ways"), tr("Glossary", "The number of classes in an episode.")),
        "shots": (tr("Glossary", "Shots"), tr("Glossary", "The number of examples per class in an episode.")),
        "support": (
            tr("Glossary", "Support set"),
            tr("Glossary", "The examples of an episode, with their classes known."),
        ),
        "validation": (
            tr("Glossary", "Validation"),
            tr(
                "Glossary",
                "Episodes from classes that training never sees; their accuracy decides which state is kept.",
            ),
        ),
        "knowledge": (
            tr("Glossary", "Knowledge"),
            tr("Glossary", "What a training run left behind: a network, how it learns, and what it was trained on."),
        ),
        "transfer": (
            tr("Glossary", "Transfer"),
            tr("Glossary", "Using what was learnt from other tasks for a new one."),
        ),
        "loss": (
            tr("Glossary", "Leave-one-out loss"),
            tr(
                "Glossary",
                "Each example is taken out in turn and predicted from the others. The mean surprise at its true class, "
                "in nats; smaller is better.",
            ),
        ),
        "none": (
            tr("Glossary", "None of these"),
            tr("Glossary", "The answer for a picture that resembles no class well enough."),
        ),
        "backbone": (
            tr("Glossary", "Backbone"),
            tr("Glossary", "The network that turns a picture into numbers; the part that is transferred."),
        ),
        "similarity": (
            tr("Glossary", "Similarity"),
            tr("Glossary", "How alike two tasks look to a network, from 0 (unrelated) to 1 (the same)."),
        ),
    }.get(key)
