"""What adapters share. Knows tensors and upstream's libraries; must never know audio, files of users or a trainer."""
