"""What every room stands on: files, streams of random numbers, registries, configurations, devices."""
