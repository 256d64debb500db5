"""For every test: Hypothesis without a stopwatch, since a shared machine is slow at times and that is no failure."""

from hypothesis import HealthCheck, settings

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")
