"""Writing files safely, choosing devices, worker processes: what every other part may use."""
