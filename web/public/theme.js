// Runs before the first paint, so that a chosen theme does not flash.
try {
  const theme = localStorage.getItem('hearth.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be closed to pages: the system's theme holds.
}
