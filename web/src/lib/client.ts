import { QueryClient } from '@tanstack/react-query';
import { ApiError, whenSignedOut } from './api';

export const client = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 1000,
      // What the server has refused it refuses again.
      retry: (count, error) => count < 2 && !(error instanceof ApiError && error.status >= 400 && error.status < 500),
    },
  },
});

whenSignedOut(() => client.setQueryData(['session'], null));
