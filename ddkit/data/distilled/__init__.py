"""What is a distilled dataset: in memory, on disk, and handed to other tools."""
