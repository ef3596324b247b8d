"""The kinds of stage, one in a file: a function that makes a stage, and one that measures a chunk of images."""
