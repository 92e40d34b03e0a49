"""The console: pages for people, made of the API's own calls in the name of who is signed in."""
