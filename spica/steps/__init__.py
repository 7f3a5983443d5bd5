"""Floor 3: files in, files and a result out."""
