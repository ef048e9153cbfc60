"""Pictures of what was done: a fill, an evaluation, a variogram. The only room that knows matplotlib; it computes nothing."""
