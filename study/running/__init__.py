"""What runs a step: files, provenance, the device, the hub, progress, the workflow."""
