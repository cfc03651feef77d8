"""Which app does each client run?"""

from __future__ import annotations

from ddkit.integrations.federated.client import DistillClient
from ddkit.integrations.federated.flower import ClientApp, Context, Message

from .shared import load, task

app = ClientApp()


@app.train("distil")
def distil(message: Message, context: Context) -> Message:
    """Distil this client's images and send the set."""
    settings = context.run_config
    client = DistillClient(
        task(context),
        load,
        method=str(settings["method"]),
        ipc=int(settings["ipc"]),
        options={"steps": int(settings["steps"])},
    )
    return client.reply(message, context)
