"""A daemon under mixed load for as long as one likes, while its workers are killed."""
