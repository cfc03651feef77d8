"""Adapters that plug distilled data into other libraries; each needs its extra and says so when it is missing."""
