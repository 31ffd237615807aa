"""What a machine with a GPU would spend its time on, done before and elsewhere."""
