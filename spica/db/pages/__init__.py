"""Reading for the pages: what the listings of `spica.db.overview` do not hold, a bounded number of statements each."""
