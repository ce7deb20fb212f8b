"""Named experiments: from demonstrations to a compared result, in stages that resume."""
