"""What every room uses: configuration, places, files, threads, progress and errors."""
