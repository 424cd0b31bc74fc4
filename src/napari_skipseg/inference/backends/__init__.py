"""What runs a network over tiles: OpenVINO or torch, on the device that is fastest, behind one small interface."""
