"""Floor 2b: the real SExtractor, SCAMP and SWarp, judged by their XML."""
