"""What every step needs to run: files, provenance, the device, the hub, progress, the workflow."""
