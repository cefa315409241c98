"""Orders and replies over Flower: its simulation on Ray, and SuperLink and SuperNodes."""

import os

# Flower and Ray read these when they are imported: no telemetry, no look-ups, no installing.
for _switch, _value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}.items():
    os.environ.setdefault(_switch, _value)
