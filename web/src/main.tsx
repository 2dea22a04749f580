import { QueryClientProvider } from '@tanstack/react-query';
import { RouterProvider } from '@tanstack/react-router';
import { createRoot } from 'react-dom/client';
import { Toaster } from 'sonner';
import './app.css';
import { client } from './lib/client';
import { useDark } from './lib/theme';
import { router } from './router';

function App() {
  const dark = useDark();
  return (
    <QueryClientProvider client={client}>
      <RouterProvider router={router} />
      <Toaster theme={dark ? 'dark' : 'light'} position="bottom-right" mobileOffset={{ bottom: 76 }} closeButton />
    </QueryClientProvider>
  );
}

createRoot(document.getElementById('root') as HTMLElement).render(<App />);
