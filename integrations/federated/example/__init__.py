"""An app for ``flwr run``: what a server and its clients need beside ddkit; copied by ``write_app``."""
