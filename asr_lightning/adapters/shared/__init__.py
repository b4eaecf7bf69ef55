"""Code that adapters share. Knows tensors and upstream's libraries, but no audio, no files of users and no trainer."""
