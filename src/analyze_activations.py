from ditq.cli.analyze_activations import main

if __name__ == "__main__":
    main()
