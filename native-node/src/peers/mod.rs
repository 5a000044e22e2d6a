//! Links to peers over WebSockets.
