"""The done head that stands beside a policy which has none."""
