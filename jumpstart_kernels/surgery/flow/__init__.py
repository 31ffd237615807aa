"""What becomes of a layer's units: followed through traces of a whole model, from layer to layer."""
