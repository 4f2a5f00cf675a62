"""What runs a step: errors in one sentence, whole files, provenance, the device, the hub, progress."""
