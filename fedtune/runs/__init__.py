"""The loop over rounds and stages, the engines that it runs on, and the checks before it."""
