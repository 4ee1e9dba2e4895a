"""One module or folder a notebook: what it computes and concludes."""
