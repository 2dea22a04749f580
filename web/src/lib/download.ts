// Hands a file that the page has read to whoever looks at it.
export function saveAs(name: string, blob: Blob) {
  const link = document.createElement('a');
  link.download = name;
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
