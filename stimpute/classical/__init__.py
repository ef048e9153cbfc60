"""Classical gap filling, one batched torch implementation each.

`model` takes them as candidates, `baselines` wraps them as methods, tests hold them to independent references. All
take ``values`` (B, T, H, W), 0 or anything at gaps, and ``valid`` bool of the same shape, True = observed; none reads a gap.
"""
